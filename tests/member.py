"""A process of a run that does not train: it ends as it is told, for the tests of the launcher."""

import os
import signal
import sys
import time

from experiments.frame import console, worker


def main() -> None:
    place = worker.place_here()
    told = dict(each.split("=", 1) for each in sys.argv[1:]).get(str(place.process), "wait")
    what, _, more = told.partition(":")
    member = worker.Worker(place)
    try:
        with member.at_work():
            print("printed")
            console.say("said")
            if what == "error":
                console.complain(more)
                os._exit(2)
            if what == "page":
                member._write({"joined": True})
            if what in ("page", "abort"):
                os.write(2, more.encode().decode("unicode_escape").encode())
                os.abort()
            if what == "signal":
                os.kill(os.getpid(), int(more))
            if what == "exit":
                os._exit(int(more))
            if what == "wait":
                signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
                if more:
                    os.kill(os.getppid(), int(more))
                time.sleep(60)
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()
