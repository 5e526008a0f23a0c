"""Starts the gateway and the provider simulator as a user would, on ports that the kernel chooses.

The programs are named by SLUICE_PROGRAM and SLUICE_SIM_PROGRAM; `cargo xtask sdk` builds them and sets both.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.request


class Program:
    """A running program; `lines` yields what it prints, `stop` ends it."""

    def __init__(self, variable, arguments, environment=None):
        path = os.environ.get(variable)
        if not path:
            raise RuntimeError(f"{variable} is not set; run `cargo xtask sdk`")
        self.process = subprocess.Popen(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        self.first_line = self.process.stdout.readline()
        # Emptied to the end, so that the program is never held up by a full pipe.
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self):
        for _ in self.process.stdout:
            pass

    def stop(self):
        """Ends it and gives its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Simulator(Program):
    """The providers' stand-in; `url` has no path."""

    def __init__(self):
        super().__init__("SLUICE_SIM_PROGRAM", ["--listen", "127.0.0.1:0"])
        self.url = re.search(r"http://\S+", self.first_line).group(0)

    def attempts(self):
        """What it was asked so far, oldest first."""
        with urllib.request.urlopen(f"{self.url}/sim/attempts") as answer:
            return json.load(answer)["attempts"]

    def last_attempt(self):
        """The last complete attempt's entry in its books; it may be written a moment after the answer."""
        deadline = time.monotonic() + 5
        while (last := self.attempts()[-1])["outcome"] == "in_flight":
            assert time.monotonic() < deadline, last
        return last

    @contextlib.contextmanager
    def rules(self, *rules):
        """What it does, by model or path, until the end of the block."""
        self._post_rules(rules)
        try:
            yield
        finally:
            self._post_rules([])

    def _post_rules(self, rules):
        request = urllib.request.Request(f"{self.url}/sim/rules", json.dumps(rules).encode(), method="POST")
        urllib.request.urlopen(request).close()


class Gateway(Program):
    """The gateway with a configuration, given as what JSON can hold (JSON is YAML)."""

    def __init__(self, folder, configuration, environment):
        path = folder / "sluice.yaml"
        path.write_text(json.dumps(configuration, indent=2))
        arguments = ["serve", "--config", str(path), "--cores", "1"]
        arguments += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        super().__init__("SLUICE_PROGRAM", arguments, {"RUST_LOG": "error", **environment})
        line = json.loads(self.first_line)
        self.url, self.admin_url = line["listen"][0], line["admin"]

    def forget(self):
        """Makes it forget which keys and targets failed."""
        urllib.request.urlopen(urllib.request.Request(f"{self.admin_url}/admin/forget", method="POST")).close()


def closed_port():
    """A loopback port at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]
