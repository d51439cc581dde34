"""Speech enhanced with the help of other speech of the same speaker: ``weft fit VOICES --system fafnet``.

Layers over complex maps (:mod:`.layers`), the network (:mod:`.network`), spectra, cepstra and the matching of frames
(:mod:`.spectra`).
"""
