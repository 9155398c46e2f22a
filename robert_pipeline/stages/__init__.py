"""What a worker does with one unit or one shard, and the Beam pipelines that hand them out.

Only `pipeline` imports Beam: `embedding` and `scoring` run anywhere.
"""
