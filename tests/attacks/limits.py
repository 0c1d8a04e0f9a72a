"""Little memory, few descriptors, no output: one clear error each."""

import os
import resource

from attack import Attack


def attacks(place):
    commands = {
        "train": lambda at: ("train", "small.yaml", "--quiet", "--output", f"limits/{at}"),
        "predict": lambda at: ("predict", "run", "p.png"),
        "evaluate": lambda at: ("evaluate", "run"),
        "data check": lambda at: ("data", "check", "small.yaml"),
    }
    at = 0
    for name, arguments in commands.items():
        for which, bounds in [
            ("AS", [m << 20 for m in (900, 1000, 1200, 1500, 2000, 3000)]),
            ("NOFILE", (4, 8, 12, 20)),
            ("STACK", (1 << 18, 1 << 20)),
            ("CORE", (0,)),
        ]:
            for bound in bounds:
                at += 1
                # 127: the loader itself finds no room for libtorch.
                yield Attack(
                    "resource limits",
                    f"{name} with RLIMIT_{which} {bound}",
                    place.command(*arguments(at)),
                    codes=(0, 1, 2, 127),
                    options={"limits": [(getattr(resource, f"RLIMIT_{which}"), bound)]},
                )
        full = os.open("/dev/full", os.O_WRONLY)
        yield Attack(
            "resource limits",
            f"{name} to /dev/full",
            place.command(*arguments(f"{at}f")),
            codes=(0, 1),
            options={"stdout": full},
        )
        read, write = os.pipe()
        os.close(read)
        yield Attack(
            "resource limits",
            f"{name} to a closed pipe",
            place.command(*arguments(f"{at}p")),
            codes=(0, 1),
            options={"stdout": write},
        )
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        for name, arguments in commands.items():
            at += 1
            words = " ".join(map(str, place.command(*arguments(at))))
            codes = (0, 1)
            yield Attack(
                "resource limits", f"{name} {closed}", ["sh", "-c", f"exec {words} {closed}"], codes=codes
            )
