"""Both ways between picture and text: ``weft fit SOURCE --system aug-vae``, then ``l-verse`` or ``l-verse-captions``.

The autoencoder (:mod:`.augvae`) and its codebook (:mod:`.codebook`), the transformer (:mod:`.biart`), held together in
:mod:`.system`.
"""

from weft.systems.l_verse.augvae import AugVae
from weft.systems.l_verse.biart import BiArt
from weft.systems.l_verse.codebook import Codebook
from weft.systems.l_verse.system import AugVaeSystem, LVerse, LVerseCaptions

__all__ = ["AugVae", "AugVaeSystem", "BiArt", "Codebook", "LVerse", "LVerseCaptions"]
