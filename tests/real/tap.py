"""What stands between gateway and server: it keeps the usage of every streamed model call, and may cut them off."""

import http.server
import itertools
import json
import threading
import urllib.error
import urllib.request


class Tap:
    """One way to the server. Without `cuts` it changes nothing."""

    def __init__(self, server, cuts=None):
        log = self.log = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
                kind = {"content-type": self.headers["content-type"]} if body else {}
                request = urllib.request.Request(server + self.path, body, kind)
                try:
                    response = urllib.request.urlopen(request, timeout=120)
                except urllib.error.HTTPError as refusal:
                    response = refusal
                left = cuts.next() if cuts and self.path == "/v1/chat/completions" else None
                with response:
                    self.send_response(response.status)
                    self.send_header("content-type", response.headers.get("content-type", "text/plain"))
                    # Without a length, only such an answer's end tells whether it is whole.
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    for line in response:
                        if line.startswith(b"data: {"):
                            if left == 0:
                                cuts.done += 1
                                self.close_connection = True
                                return
                            left = left and left - 1
                            if usage := json.loads(line[6:]).get("usage"):
                                log.append(usage)
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    self.wfile.write(b"0\r\n\r\n")

            do_POST = do_GET
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Cuts:
    """Every second stream ends early, after 1, 2, … `EVENTS_MAX` events and from the beginning again: no answer is cut off
    twice in a row, as by two servers that die."""

    EVENTS_MAX = 12

    def __init__(self):
        self.done = 0
        self._lock = threading.Lock()
        self._plan = itertools.cycle(event for after in range(1, self.EVENTS_MAX + 1) for event in (after, None))

    def next(self):
        """How many events of the next stream get through; None: all."""
        with self._lock:
            return next(self._plan)
