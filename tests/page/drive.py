"""The page of a real register in a real browser: see `run`."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from browser import Browser

MESSAGES = 900
NODES = 4
TOLERANCE = 3


class Register:
    """A leader with its nodes, in a folder of their own."""

    def __init__(self, binary, home):
        (home / "tolerance.conf").write_text(f"tolerance={TOLERANCE}\n")
        env = {k: v for k, v in os.environ.items() if not k.startswith("HATOKUSE_")}
        self.leader = subprocess.Popen(
            [os.path.abspath(binary), "leader", "--port", "0", "--grpc-port", "0", "--http-port", "0", "--plain",
             "--local-nodes", str(NODES), "--repair-after", "4s", "--stop-with-stdin"],
            cwd=home, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said = []
        threading.Thread(target=self.listen, daemon=True).start()
        self.addr = self.says("leader ready clients=").split("clients=")[1].split()[0]
        self.http = self.says("leader http=").split("http=")[1].split()[0]
        for node in range(1, NODES + 1):
            self.says(f"node {node} joined")
        self.wire = socket.create_connection(self.hostport(self.addr)).makefile("rwb")

    def listen(self):
        for line in self.leader.stderr:
            self.said.append(line.rstrip())

    def says(self, text):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for line in list(self.said):
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"waited for {text!r}; the leader said:\n" + "\n".join(self.said))

    @staticmethod
    def hostport(addr):
        host, port = addr.rsplit(":", 1)
        return host, int(port)

    def ask(self, *lines):
        self.wire.write("".join(line + "\n" for line in lines).encode())
        self.wire.flush()
        return [self.wire.readline().decode().rstrip("\n") for _ in lines]

    def fill(self, prefix, count):
        for begin in range(0, count, 100):
            replies = self.ask(*(f"SET {prefix}{n} {'x' * 100}" for n in range(begin, min(begin + 100, count))))
            assert set(replies) == {"OK"}, replies

    def kill_node(self, node):
        children = subprocess.run(["pgrep", "-P", str(self.leader.pid)], capture_output=True, text=True).stdout.split()
        for pid in children:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[words.index(b"--id") + 1] == str(node).encode():
                os.kill(int(pid), signal.SIGKILL)
                return
        raise AssertionError(f"no process of node {node}")

    def close(self):
        self.leader.stdin.close()
        self.leader.wait(10)


def traffic(register, stop):
    """A little of everything, so that charts have lines."""
    wire = socket.create_connection(register.hostport(register.addr)).makefile("rwb")
    n = 0
    while not stop.is_set():
        lines = [f"SET live{n % 50} {n}"] + [f"GET m{(n * 7 + k) % MESSAGES}" for k in range(3)]
        wire.write("".join(line + "\n" for line in lines).encode())
        wire.flush()
        for _ in lines:
            wire.readline()
        n += 1
        time.sleep(0.004 + 0.003 * (n // 300 % 3))


def see(what):
    print(f"ok   {what}", flush=True)


def story(register, browser, pictures):
    url = f"http://{register.http}/"
    desktop = browser.tab(1280, 900)
    desktop.go(url)
    desktop.until("document.querySelector('#live').textContent === 'Live'", "it is live")
    assert "No messages yet. 4 nodes are ready to keep them, each on 3." in desktop.text("#health"), desktop.text("#health")
    see("an empty register says so")

    register.fill("m", MESSAGES)
    desktop.until(f"document.querySelector('#health').innerText.includes('All {MESSAGES} messages have 3 copies on 4 nodes.')",
                  "the sentence has the new messages")
    shares = desktop.js("[...document.querySelectorAll('#nodes td:nth-child(4)')].map(e => e.innerText)")
    assert [share.replace("\u2009", "") for share in shares] == ["25.0%"] * 4, shares
    see("messages show on the open page, without loading it again")

    stop = threading.Event()
    threads = [threading.Thread(target=traffic, args=(register, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        desktop.click("#id")
        desktop.type("m7")
        desktop.click("#look-up button")
        desktop.until("document.querySelector('#found').innerText.includes('100 bytes')", "the look-up is answered")
        holders = register.ask("WHERE m7")[0].removeprefix("NODES ").split(",")
        listed = desktop.js("[...document.querySelectorAll('.holders b')].map(e => e.innerText)")
        assert listed == holders, (listed, holders)
        assert desktop.js("location.search") == "?id=m7"
        see(f"a click looks a message up: holders {','.join(holders)}")
        desktop.js("document.querySelector('#id').value = 'x'.repeat(201)")
        desktop.click("#look-up button")
        desktop.until("document.querySelector('#found').innerText.includes('That is no id')", "it says what is wrong")
        desktop.js("document.querySelector('#id').value = 'nobody'")
        desktop.click("#look-up button")
        desktop.until("document.querySelector('#found').innerText.includes('no message with this id')", "it says so")
        see("what is not there, and what is no id, is told apart")

        time.sleep(float(os.environ.get("PAGE_TRAFFIC_S", "12")))
        desktop.js("scrollTo(0, 0)")
        desktop.point(".chart.wide .plot", 0.995)
        desktop.until("document.querySelector('.chart.wide .tip').innerText.includes('SET')", "the values under the pointer")
        see(f"the chart is read: {desktop.text('.chart.wide .tip')}")
        desktop.picture(pictures / "desktop-reading.png")
        desktop.point("h1", 0.5)
        desktop.go(url + "?id=m7")
        desktop.until("document.querySelector('#live').textContent === 'Live'", "it is live")
        desktop.picture(pictures / "desktop.png")
        for name, options in [
            ("dark", dict(width=1280, height=900, dark=True)),
            ("phone", dict(width=375, height=812, phone=True)),
            ("phone-dark", dict(width=375, height=812, phone=True, dark=True)),
            ("tablet", dict(width=768, height=1024)),
        ]:
            tab = browser.tab(**options)
            tab.go(url + "?id=m7")
            tab.until("document.querySelector('#live').textContent === 'Live'", "it is live")
            wide = tab.js("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide == 0, f"{name}: {wide} px are outside"
            tab.picture(pictures / f"{name}.png")
            assert not tab.complaints(), tab.complaints()
            see(f"{name}: nothing sticks out")

        plain = browser.tab(1280, 900, script=False)
        plain.do("Page.navigate", url=url + "?id=m7")
        time.sleep(2)
        plain.picture(pictures / "no-script.png")
        root = plain.do("DOM.getDocument")["root"]["nodeId"]
        html = plain.do("DOM.getOuterHTML", nodeId=root)["outerHTML"]
        assert "messages have 3 copies on 4 nodes." in html and "100 bytes" in html, html
        see("without JavaScript the page says the same, and the look-up works")

        # The others were in front: a page that nobody sees asks for nothing, and catches up when it is seen.
        desktop.do("Page.bringToFront")
        register.kill_node(3)
        desktop.until("document.querySelector('#nodes tr.down') !== null", "the dead node shows")
        desktop.until("document.querySelector('#health').innerText.includes('fewer than 3 copies')", "the sentence says it")
        desktop.picture(pictures / "node-down.png")
        see(f"a dead node shows: {desktop.text('#health')!r}")
        desktop.until("document.querySelector('#health').innerText.includes('have 3 copies, but node 3 is down')",
                      "its copies are made again")
        holders = register.ask("WHERE m7")[0].removeprefix("NODES ").split(",")
        assert "3" not in holders, holders
        desktop.until(f"[...document.querySelectorAll('.holders b')].map(e => e.innerText).join() === '{','.join(holders)}'",
                      "the look-up on the open page has the new holders")
        desktop.picture(pictures / "healed.png")
        see(f"and heals: {desktop.text('#health')!r}")
        assert "node 3 is down" in desktop.text("#events"), desktop.text("#events")
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert not desktop.complaints(), desktop.complaints()
    register.leader.send_signal(signal.SIGTERM)
    desktop.until("document.querySelector('#live').className === 'lost'", "it says that the leader is gone")
    see(f"a leader that is gone is said to be: {desktop.text('#live')!r}")


def main():
    pictures = pathlib.Path(sys.argv[1] or tempfile.mkdtemp(prefix="hatokuse-pictures-"))
    pictures.mkdir(parents=True, exist_ok=True)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="hatokuse-page-", dir=memory) as home:
        register = Register(os.environ["HATOKUSE_BINARY"], pathlib.Path(home))
        browser = Browser(os.environ["CHROMIUM"])
        try:
            story(register, browser, pictures)
        finally:
            browser.close()
            register.close()
    print(f"pictures are in {pictures}")


main()
