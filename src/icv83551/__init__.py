"""The import paths of the course notebooks: thin adapters over opsin, and the few tools that only the course has."""
