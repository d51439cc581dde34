"""Images from captions with ARAF's alignment, whole: ``weft fit cub --root FOLDER --system text-to-image``.

A reader of its set (:mod:`.cub`; ``shapes`` needs no files), generator and discriminator (:mod:`.network`), their
losses (:mod:`.loss`), training pairs (:mod:`.pairs`), metrics (:mod:`.metrics`), a reader of attributes
(:mod:`.attributes`), the judge (:mod:`.judge`) and figure (:mod:`.figures`), all held together in :mod:`.system`;
``recipes/`` repeat the paper's experiment, and ``README.md`` says what it gave.
"""

from weft.systems.text_to_image import cub
from weft.systems.text_to_image.system import TextToImage

__all__ = ["TextToImage", "cub"]
