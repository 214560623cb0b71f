"""Text-conditioned diffusion: train a denoising network on captioned images, draw new ones from a prompt."""
