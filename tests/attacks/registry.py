"""The list of ways: each a function, with the families it is for and what a bare world shows.
Must not run anything."""

WAYS = {}


class Way:
    """One attack. `bare` is what must be seen where nothing guards the service:
    reached  the service answers;
    sent     no answer can come back, but a packet reaches the service's network;
    refused  the kernel itself refuses, guard or not;
    any      nothing can be said (the way only means something with the filter there, or few kernels have it).
    A way whose two families differ gives a mapping."""

    def __init__(self, run, bare, families):
        self.run = run
        self.name = run.__name__
        self.bare = bare if isinstance(bare, dict) else {family: bare for family in families}
        self.families = families


def way(bare, families=(4, 6)):
    def enter(run):
        WAYS[run.__name__] = Way(run, bare, families)
        return run

    return enter
