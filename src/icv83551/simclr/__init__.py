"""The course's self-supervised learning. `opsin train simclr` is the one for real use."""
