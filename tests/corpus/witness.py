# What this program finds that an earlier one could have left behind, as one line.
import atexit, builtins, codecs, gc, json, os, random, re, sys, threading, time, traceback

FOLDERS = [".", "/tmp", "/workspace"]


def names(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return None


found = {
    "sum": 6 * 7,
    "globals": sorted(globals().keys() - {"found"}),
    "builtins": sorted((name, type(value).__name__) for name, value in vars(builtins).items()),
    "modules": len(sys.modules),
    "odd modules": sorted(name for name, module in sys.modules.items() if type(module) is not type(sys)),
    "functions": [f.__module__ for f in (json.loads, json.dumps, re.match, traceback.format_exc, print, time.sleep,
                                         os.urandom, random.SystemRandom.random, exit)],
    "hooks": [len(sys.meta_path), len(sys.path_hooks), gc.callbacks, sys.gettrace(), sys.getprofile(),
              atexit._ncallbacks(), sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
    "limits": [sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval(), gc.isenabled()],
    "streams": [type(s).__name__ for s in (sys.stdin, sys.stdout, sys.stderr)] + [sys.stdout is sys.__stdout__],
    "process": [dict(os.environ), sys.argv, sys.path, os.getcwd(), threading.active_count(), __name__],
    "types": [type(int.bit_count).__name__, codecs.lookup("utf-8").name],
    "files": [names(folder) for folder in FOLDERS],
}
print(found)
