"""Building blocks of the networks; every system imports them from here and none of them knows a system."""
