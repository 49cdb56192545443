//! What of Python works here, and how the rest is refused.

use super::*;

async fn completes(table: &[(&str, &str)]) {
    for (source, stdout) in table {
        let outcome = run(source).await;
        assert_eq!((outcome.stdout.as_str(), outcome.ended), (*stdout, Ended::Completed), "{source}\n{outcome:?}");
    }
}

async fn is_refused(table: &[(&str, &str)]) {
    for (source, expected) in table {
        let outcome = run(source).await;
        assert_eq!(outcome.ended, Ended::Raised, "{source}\n{outcome:?}");
        assert!(last_line(&outcome).starts_with(expected), "{source}\n{outcome:?}");
    }
}

// === time zones ===

#[tokio::test]
async fn a_zone_that_is_none_is_not_found() {
    for key in ["Europe/Nowhere", "Europe", "a/b/c"] {
        let outcome = run(&format!("import zoneinfo\nzoneinfo.ZoneInfo('{key}')")).await;
        let expected = format!("zoneinfo._common.ZoneInfoNotFoundError: 'No time zone found with key {key}'");
        assert_eq!(last_line(&outcome), expected, "{outcome:?}");
    }
    is_refused(&[("import zoneinfo\nzoneinfo.ZoneInfo('../etc/passwd')", "ValueError: ZoneInfo keys")]).await;
}

#[tokio::test]
async fn time_zones_are_there() {
    completes(&[
        (
            "from datetime import datetime\nfrom zoneinfo import ZoneInfo\n\
             berlin = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo('Europe/Berlin'))\n\
             print(berlin.isoformat(), berlin.astimezone(ZoneInfo('America/New_York')).isoformat())",
            "2024-07-01T12:00:00+02:00 2024-07-01T06:00:00-04:00\n",
        ),
        (
            "import zoneinfo\nnames = zoneinfo.available_timezones()\n\
             print(len(names) > 500, all(zoneinfo.ZoneInfo(name).key == name for name in names))",
            "True True\n",
        ),
        (
            "from datetime import datetime, timezone\nfrom zoneinfo import ZoneInfo\n\
             print(abs(datetime.now(ZoneInfo('Asia/Tokyo')) - datetime.now(timezone.utc)).total_seconds() < 5)",
            "True\n",
        ),
        (
            "import importlib.resources as r\nprint('Berlin' in [f.name for f in r.files('tzdata.zoneinfo.Europe').iterdir()])",
            "True\n",
        ),
    ])
    .await;
}

// === threads ===

#[tokio::test]
async fn a_wait_that_nothing_can_end_is_a_deadlock() {
    let deadlock = "RuntimeError: deadlock: threads run one after another in this sandbox";
    is_refused(&[
        ("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", deadlock),
        ("import threading\nthreading.Event().wait()", deadlock),
        ("import threading\nthreading.Barrier(2).wait()", deadlock),
        ("import threading\nthreading.Semaphore(0).acquire()", deadlock),
        ("import queue\nqueue.SimpleQueue().get()", deadlock),
        ("import threading\ne = threading.Event()\nt = threading.Thread(target=e.wait)\nt.start()\nt.join()", deadlock),
        (
            "import threading\na, b = threading.Event(), threading.Event()\n\
             def turns(mine, other):\n    for _ in range(3):\n        mine.wait()\n        mine.clear()\n        other.set()\n\
             ts = [threading.Thread(target=turns, args=pair) for pair in ((a, b), (b, a))]\n\
             for t in ts: t.start()\na.set()\nfor t in ts: t.join()",
            deadlock,
        ),
        ("import asyncio\nasyncio.run(asyncio.Event().wait())", "RuntimeError: deadlock: every task waits"),
        ("import threading\nt = threading.Thread(target=int)\nt.join()", "RuntimeError: cannot join thread before"),
    ])
    .await;
}

#[tokio::test]
async fn threads_wait_for_each_other_in_any_order() {
    let consume = "import queue, threading, time\nq, out = queue.Queue(2), []\n\
        def produce():\n    for i in range(5): q.put(i); time.sleep(0.001)\n    q.put(None)\n\
        def consume():\n    while (x := q.get()) is not None: out.append(x)\n\
        p, c = threading.Thread(target=produce), threading.Thread(target=consume)\n";
    for order in ["p c p c", "c p c p", "c p p c", "p c c p"] {
        let [first, second, third, last] = order.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
        let source = format!("{consume}{first}.start()\n{second}.start()\n{third}.join()\n{last}.join()\nprint(out)");
        completes(&[(&source, "[0, 1, 2, 3, 4]\n")]).await;
    }
}

#[tokio::test]
async fn threads_do_what_programs_expect_of_them() {
    completes(&[
        (
            "import queue, threading\nq = queue.Queue()\ndef work():\n    while True:\n        print(q.get())\n        q.task_done()\n\
             threading.Thread(target=work, daemon=True).start()\nfor i in range(2): q.put(i)\nq.join()\nprint('done')",
            "0\n1\ndone\n",
        ),
        (
            "import threading\nc, items = threading.Condition(), []\ndef consume():\n    with c:\n        c.wait_for(lambda: items)\n        print(items)\n\
             t = threading.Thread(target=consume)\nt.start()\nwith c:\n    items.append(1)\n    c.notify()\nt.join()",
            "[1]\n",
        ),
        (
            "import threading\nb, n = threading.Barrier(3), []\ndef f():\n    b.wait()\n    n.append(1)\n\
             ts = [threading.Thread(target=f) for _ in range(3)]\nfor t in ts: t.start()\nfor t in ts: t.join()\nprint(len(n))",
            "3\n",
        ),
        (
            "import threading, time\ne = threading.Event()\ndef f():\n    e.wait()\n    print('go')\n\
             t = threading.Thread(target=f)\nt.start()\ntime.sleep(0.01)\nprint('set')\ne.set()\nt.join()",
            "set\ngo\n",
        ),
        (
            "import threading, time\nlock, c = threading.RLock(), 0\ndef f():\n    global c\n    with lock, lock:\n        old = c\n        time.sleep(0.001)\n        c = old + 1\n\
             ts = [threading.Thread(target=f) for _ in range(5)]\nfor t in ts: t.start()\nfor t in ts: t.join()\nprint(c)",
            "5\n",
        ),
        (
            "import threading, time\ns = threading.Semaphore(2)\ndef f():\n    with s: time.sleep(0.001)\n    print('x', end='')\n\
             ts = [threading.Thread(target=f) for _ in range(4)]\nfor t in ts: t.start()\nfor t in ts: t.join()",
            "xxxx",
        ),
        (
            "import threading\nown = threading.local()\nown.x, seen = 1, []\nt = threading.Thread(target=lambda: seen.append(hasattr(own, 'x')), name='T')\n\
             t.start()\nprint(t.is_alive(), threading.active_count())\nt.join()\nprint(seen, t.is_alive(), t.ident != threading.get_ident())",
            "True 2\n[False] False True\n",
        ),
        (
            "import threading\nt = threading.Timer(0.01, print, ('ring',))\nlate = threading.Timer(60, print)\nt.start(); late.start()\nlate.cancel()\nprint('started')\nt.join(); late.join()",
            "started\nring\n",
        ),
        ("import threading, time\nthreading.Thread(target=print, args=(1,)).start()\ntime.sleep(0.001)\nprint(2)", "1\n2\n"),
        ("import threading, atexit\natexit.register(print, 3)\nthreading.Thread(target=print, args=(2,)).start()\nprint(1)", "1\n2\n3\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_thread_that_is_in_the_way_is_stopped_and_that_is_told() {
    let outcome = run("import queue, threading\nq, out = queue.Queue(), []\n\
        def consume():\n    while (x := q.get()) is not None:\n        out.append(x)\n        q.task_done()\n\
        t = threading.Thread(target=consume, name='eater')\nt.start()\nfor i in range(3): q.put(i)\nq.join()\nq.put(None)\nt.join()\nout")
    .await;
    assert_eq!(outcome.value.as_deref(), Some("[0, 1, 2]"), "{outcome:?}");
    assert!(outcome.stderr.starts_with("note: eater was stopped where it waited"), "{outcome:?}");
}

#[tokio::test]
async fn an_exception_in_a_thread_is_shown_and_the_rest_goes_on() {
    let outcome =
        run("import threading\ndef f(): 1 / 0\nt = threading.Thread(target=f, name='T')\nt.start()\nt.join()\n'on'")
            .await;
    assert_eq!(outcome.value.as_deref(), Some("'on'"));
    assert!(outcome.stderr.starts_with("Exception in thread T:\nTraceback (most recent call last):\n"), "{outcome:?}");
    assert!(outcome.stderr.ends_with("ZeroDivisionError: division by zero\n"), "{outcome:?}");
}

#[tokio::test]
async fn nothing_of_one_programs_threads_is_left_to_the_next() {
    let mut interpreter = SANDBOX.interpreter();
    let source = "import atexit, threading\natexit.register(print, 'bye')\nthreading.Thread(target=print, args=('late',)).start()\n1 / 0";
    let failed = run_in(&mut interpreter, source, LIMITS).await;
    assert_eq!((failed.ended, failed.stdout.as_str()), (Ended::Raised, "bye\n"), "{failed:?}");
    let next = run_in(&mut interpreter, "import time\ntime.sleep(0.001)\nthreading.active_count()", LIMITS).await;
    assert_eq!((next.stdout.as_str(), next.value.as_deref()), ("", Some("1")), "{next:?}");
}

#[tokio::test]
async fn executors_run_their_calls() {
    let import = "from concurrent.futures import *\nimport asyncio, time, threading\n";
    for (source, stdout) in [
        ("with ThreadPoolExecutor(2) as p: print(list(p.map(pow, [2, 3], [3, 2])))", "[8, 9]\n"),
        (
            "with ThreadPoolExecutor(3) as p:\n    fs = [p.submit(lambda i=i: (time.sleep(0.02 * (3 - i)), i)[1]) for i in range(3)]\n    print([f.result() for f in as_completed(fs)])",
            "[2, 1, 0]\n",
        ),
        (
            "t = time.perf_counter()\nwith ThreadPoolExecutor(10) as p: list(p.map(time.sleep, [0.2] * 10))\nprint(time.perf_counter() - t < 1.5)",
            "True\n",
        ),
        (
            "p = ThreadPoolExecutor(1)\nbad, late = p.submit(lambda: 1 / 0), p.submit(print)\nprint(late.cancel(), bad.done(), type(bad.exception()), bad.done())",
            "True False <class 'ZeroDivisionError'> True\n",
        ),
        (
            "own = threading.local()\ndef init(x): own.x = x\nwith ThreadPoolExecutor(2, 'w', init, (5,)) as p: print(list(p.map(lambda i: own.x + i, range(4))))",
            "[5, 6, 7, 8]\n",
        ),
        ("with ThreadPoolExecutor() as p: print(p.submit(lambda: p.submit(lambda: 5).result()).result())", "5\n"),
        (
            "async def main():\n    print(await asyncio.gather(asyncio.to_thread(abs, -1), asyncio.to_thread(time.sleep, 0.01)))\nasyncio.run(main())",
            "[1, None]\n",
        ),
        (
            "async def f(): return 7\nasync def main():\n    with ThreadPoolExecutor() as p: print(p.submit(asyncio.run, f()).result(), await f())\nasyncio.run(main())",
            "7 7\n",
        ),
        (
            "loop = asyncio.new_event_loop()\nthreading.Thread(target=loop.run_forever, daemon=True).start()\nasync def f(): return 5\nprint(asyncio.run_coroutine_threadsafe(f(), loop).result())",
            "5\n",
        ),
    ] {
        completes(&[(&format!("{import}{source}"), stdout)]).await;
    }
}

// === refusals ===

#[tokio::test]
async fn the_network_is_refused_in_words() {
    let url = "urllib.error.URLError: <urlopen error [Errno -4] this sandbox has no network: write the data";
    let name = "socket.gaierror: [Errno -4] this sandbox has no network";
    let socket = "PermissionError: [Errno 2] this sandbox has no network";
    is_refused(&[
        ("import urllib.request as r\nr.urlopen('http://example.com')", url),
        ("import urllib.request as r\nr.urlopen('https://example.com')", url),
        ("import urllib.request as r\nr.urlopen('http://127.0.0.1:8080')", url),
        ("import http.client as h\nh.HTTPSConnection('example.com').request('GET', '/')", name),
        ("import socket\nsocket.create_connection(('example.com', 80))", name),
        ("import smtplib\nsmtplib.SMTP('localhost')", name),
        ("import socket\nsocket.socket()", socket),
        ("import asyncio\nasyncio.run(asyncio.start_server(print, '127.0.0.1', 80))", socket),
        ("import http.server as h\nh.HTTPServer(('', 80), h.SimpleHTTPRequestHandler)", socket),
        ("import ssl", "(this sandbox has no network"),
        ("import requests", "(this sandbox has no network"),
    ])
    .await;
    completes(&[(
        "import urllib.request, urllib.error\ntry: urllib.request.urlopen('https://example.com')\nexcept urllib.error.URLError as e: print('no network' in str(e))",
        "True\n",
    )])
    .await;
}

#[tokio::test]
async fn processes_are_refused_in_words() {
    let process = "PermissionError: [Errno 63] this sandbox has no other processes and no shell";
    let parallel = "PermissionError: [Errno 63] this sandbox has one process and one CPU: call the function in a loop";
    is_refused(&[
        ("import subprocess\nsubprocess.run('ls')", process),
        ("import subprocess\nsubprocess.check_output(['ls', '-l'])", process),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', 'x'])",
            "PermissionError: [Errno 63] nothing can be installed",
        ),
        ("import os\nos.system('ls')", process),
        ("import os\nos.popen('ls')", process),
        ("import os\nos.execvp('ls', ['ls'])", process),
        ("import os\nos.kill(1, 9)", process),
        ("import os\nos.fork()", "(this sandbox has no other processes and no shell"),
        ("import asyncio\nasyncio.run(asyncio.create_subprocess_shell('ls'))", process),
        ("import multiprocessing as m\nm.Pool(2)", parallel),
        ("import multiprocessing as m\nm.Process(target=print).start()", parallel),
        ("import multiprocessing as m\nm.Queue()", parallel),
        ("from multiprocessing.pool import ThreadPool\nThreadPool(2)", parallel),
        ("import signal\nsignal.alarm(1)", "(no signal and no alarm reaches a program"),
    ])
    .await;
}

#[tokio::test]
async fn missing_modules_and_people_are_told_with_what_to_do_instead() {
    is_refused(&[
        (
            "import numpy as np",
            "(the sandbox has Python's standard library only, and nothing can be installed; here, math",
        ),
        ("import sklearn", "(the sandbox has Python's standard library only, and nothing can be installed)"),
        ("import bz2", "(of Python's compressions the sandbox has zlib"),
        ("import ctypes", "(this sandbox runs no native code"),
        ("import mmap", "(this sandbox maps no files into memory"),
        ("import tkinter", "(the sandbox has no screen and no terminal"),
        ("import curses", "(the sandbox has no screen and no terminal"),
        ("import pip", "(nothing can be installed in this sandbox"),
        ("import resource", "(the sandbox has no users, terminals or limits"),
        ("!pip install numpy", "(this is a program, not a notebook"),
        ("%timeit 1", "(this is a program, not a notebook"),
        ("import getpass\ngetpass.getpass()", "EOFError: getpass() has nobody to ask"),
        ("breakpoint()", "EOFError: the debugger has nobody to ask"),
        ("import sys\nint(sys.stdin.readline())", "(sys.stdin is empty: this program runs without a user"),
        ("import sys\nint('x')", "ValueError: invalid literal for int()"),
        ("import os\nos.lsitdir()", "AttributeError: module 'os' has no attribute 'lsitdir'"),
        ("import asyncio\nasync def f(): pass\nawait f()\nasyncio.run(f())", "(the program awaits at top level"),
        ("import asyncio\nasyncio.get_running_loop()", "RuntimeError: no running event loop"),
    ])
    .await;
}
