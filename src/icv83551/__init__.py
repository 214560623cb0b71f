"""The import paths of the course notebooks: thin adapters over opsin, without logic of their own."""
