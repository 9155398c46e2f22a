"""What proves the speed: each benchmark runs its peers or its ceiling beside the product."""
