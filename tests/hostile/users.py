"""Users of the lab as processes of a program that root started.
Must not let one of them do another's work: who became a user stays that user."""

import os
import pwd
import traceback


class User:
    """`name:path`: a user and the path that the rules give to that user alone."""

    def __init__(self, pair):
        name, self.path = pair.split(":", 1)
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid = name, entry.pw_uid, entry.pw_gid

    def become(self):
        """For good."""
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


class Process:
    """Runs `work(user, process)` as the user; the two sides exchange lines."""

    def __init__(self, user, work):
        self.user = user
        (self._from_child, to_parent), (from_parent, self._to_child) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._from_child)
            os.close(self._to_child)
            self._open(from_parent, to_parent)
            os._exit(self._live(work))
        os.close(to_parent)
        os.close(from_parent)
        self._open(self._from_child, self._to_child)

    def _open(self, incoming, outgoing):
        self._in = os.fdopen(incoming, encoding="ascii")
        self._out = os.fdopen(outgoing, "w", encoding="ascii")

    def _live(self, work):
        try:
            self.user.become()
            work(self.user, self)
            return 0
        except Exception:  # whatever it is, it must be seen and not become the parent's code
            traceback.print_exc()
            return 1

    def say(self, line):
        print(line, file=self._out, flush=True)

    def hear(self):
        line = self._in.readline()
        if not line:
            raise EOFError("the other side has ended")
        return line.strip()

    def ended_well(self):
        return os.waitpid(self._pid, 0)[1] == 0
