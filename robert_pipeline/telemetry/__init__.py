"""What runs tell an operator's metrics: which figures there are, whose they are, and how they leave the process."""
