"""Measure data that is run-length encoded as TIFF (PackBits) and DICOM (RLE) do it."""


def unpacked_size(packed: bytes) -> int:
    """Return the number of bytes that packed data decodes to. A single last byte is padding."""
    place = total = 0
    while place + 1 < len(packed):
        control = packed[place]
        if control < 128:  # that many bytes and one more follow
            total += min(control + 1, len(packed) - place - 1)
            place += control + 2
        elif control > 128:  # one byte follows, which is repeated
            total += 257 - control
            place += 2
        else:
            place += 1
    return total
