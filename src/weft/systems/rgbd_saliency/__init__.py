"""RGB-D salient object detection with MutualFormer, whole: ``weft fit FOLDER --system rgbd-saliency``.

A reader of the layout its sets have (:mod:`.reader`), the network (:mod:`.network`), its loss (:mod:`.loss`), the
field's metrics (:mod:`.metrics`) and figure (:mod:`.figures`), all held together in :mod:`.system`; ``recipes/`` repeat
the paper's tables, and ``README.md`` says what they gave.
"""

from weft.systems.rgbd_saliency.system import RgbdSaliency

__all__ = ["RgbdSaliency"]
