"""The cgroups of this process: what its container, and all around it, may take."""

from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cgroup_folders(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> list[Path]:
    """List this process's cgroups with a controller, and their parents: cgroup v2 and v1.

    proc and cgroups are the mount points.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        # hierarchy:controllers:path; v2 names no controllers.
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        if controllers and not root.is_dir():
            root = cgroups / controller
        folder = root / path.lstrip("/")
        # In a container the path may be the host's while the mount is the container's.
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders
