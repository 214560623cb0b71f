"""The encoders that are evaluated are those of the tests of SimCLR."""

from ..simclr.conftest import encoder, parts, pattern_folder, pattern_run, small

__all__ = ["encoder", "parts", "pattern_folder", "pattern_run", "small"]
