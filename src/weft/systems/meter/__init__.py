"""METER: a text and an image encoder, co-attention over their tokens, poolers and heads.

Here so far: the network (:mod:`.network`) under the parameter names of the published checkpoints, with the losses of
its heads. Not here yet: readers, pre-training and a system for ``weft fit``. Co-attention and merged attention over
stored tokens are fusions: ``co-attention`` and ``merged-attention``.
"""
