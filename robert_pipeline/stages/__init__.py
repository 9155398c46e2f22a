"""What a worker does with one unit or one shard, and the Beam pipelines that hand them out.

Only `pipeline` and `engines` know Beam: `embedding` and `scoring` run anywhere.
"""
