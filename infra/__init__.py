"""Everything that surrounds the pipeline: the local stack, images and charts."""
