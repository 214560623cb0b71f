"""Images and texts in one space (CLIP): training, similarity, zero-shot labels, and search over one's own images."""
