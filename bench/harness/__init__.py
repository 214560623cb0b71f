"""What the scripts share: the clock, the table, and the networks that opsin is compared with."""
