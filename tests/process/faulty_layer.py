#!/usr/bin/python3
"""A folder once more, through FUSE, where calls fail as a file says.

    faulty_layer.py BELOW AT RULES

RULES has lines `CALL NAME ERROR`: a call of this kind (`*`: any) on a file of this name (a glob) fails with this error
(`EIO`). `statfs * ZERO`: all that statfs tells is zero. The file is read whenever it has changed, and may be missing.
"""
import errno
import fnmatch
import os
import sys

import fusepy


class Rules:
    def __init__(self, path):
        self.path, self.seen, self.lines = path, None, []

    def of(self, call, path):
        """What the first line for this call says, if there is one."""
        try:
            stat = os.stat(self.path)
            seen = (stat.st_ino, stat.st_mtime_ns)
            if seen != self.seen:
                with open(self.path) as file:
                    self.lines = [line.split() for line in file if line.strip()]
                self.seen = seen
        except FileNotFoundError:
            return None
        name = os.path.basename(path)
        fits = (what for kind, glob, what in self.lines if kind in ("*", call) and fnmatch.fnmatchcase(name, glob))
        return next(fits, None)


class Layer(fusepy.Operations):
    def __init__(self, below, rules):
        self.below, self.rules = os.path.realpath(below), rules

    def __call__(self, call, path, *args):
        what = self.rules.of(call, path)
        if what not in (None, "ZERO"):
            raise fusepy.FuseOSError(getattr(errno, what))
        return super().__call__(call, path, *args)

    def at(self, path):
        return self.below + path

    def access(self, path, mode):
        if not os.access(self.at(path), mode):
            raise fusepy.FuseOSError(errno.EACCES)

    def getattr(self, path, fh=None):
        stat = os.lstat(self.at(path)) if fh is None else os.fstat(fh)
        return {key: getattr(stat, key) for key in dir(stat) if key.startswith("st_") and not key.endswith("_ns")}

    def statfs(self, path):
        stat = os.statvfs(self.at(path))
        is_zero = self.rules.of("statfs", path) == "ZERO"
        keys = [key for key in dir(stat) if key.startswith("f_") and key != "f_fsid"]
        return {key: 0 if is_zero else getattr(stat, key) for key in keys}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.at(path))]

    def mkdir(self, path, mode):
        os.mkdir(self.at(path), mode)

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def unlink(self, path):
        os.unlink(self.at(path))

    def rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    def utimens(self, path, times=None):
        os.utime(self.at(path), times)

    def open(self, path, flags):
        # The kernel tells where to append.
        return os.open(self.at(path), flags & ~os.O_APPEND)

    def create(self, path, mode, fi=None):
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self.at(path) if fh is None else fh, length)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def fsyncdir(self, path, datasync, fh):
        folder = os.open(self.at(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def release(self, path, fh):
        os.close(fh)

    def setxattr(self, path, name, value, options, position=0):
        os.setxattr(self.at(path), name, value, options)

    def getxattr(self, path, name, position=0):
        return os.getxattr(self.at(path), name)

    def listxattr(self, path):
        return os.listxattr(self.at(path))

    def removexattr(self, path, name):
        os.removexattr(self.at(path), name)


if __name__ == "__main__":
    below, at, rules = sys.argv[1:]
    fusepy.FUSE(Layer(below, Rules(os.path.realpath(rules))), at, nothreads=True, foreground=False, use_ino=False)
