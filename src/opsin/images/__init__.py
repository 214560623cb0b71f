"""Images: opening, decoding, colors, augmentation and preprocessing."""
