"""Chromium, driven over its DevTools pipe: no port, no package, gone with this process."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time


class Browser:
    def __init__(self, binary):
        self.home = tempfile.mkdtemp(prefix="hatokuse-page-")
        down, self.send_to = os.pipe()
        self.read_from, up = os.pipe()

        def pipes():
            # The browser reads its orders from 3 and answers on 4. Neither number may be trodden on meanwhile.
            low, high = os.dup(down), os.dup(up)
            high_in, high_out = 60, 61
            os.dup2(low, high_in)
            os.dup2(high, high_out)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self.process = subprocess.Popen(
            [binary, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--mute-audio",
             f"--user-data-dir={self.home}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        self.number, self.rest, self.events = 0, b"", []

    def call(self, method, session=None, **params):
        self.number += 1
        order = {"id": self.number, "method": method, "params": params}
        if session:
            order["sessionId"] = session
        os.write(self.send_to, json.dumps(order).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def next(self):
        while b"\0" not in self.rest:
            more = os.read(self.read_from, 1 << 20)
            if not more:
                raise RuntimeError("the browser has gone")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def tab(self, width, height, dark=False, script=True, phone=False):
        return Tab(self, width, height, dark, script, phone)

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


class Tab:
    """One page, as a user with such a screen has it."""

    def __init__(self, browser, width, height, dark, script, phone):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log"]:
            self.do(f"{domain}.enable")
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
                mobile=phone)
        self.do("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        if not script:
            self.do("Emulation.setScriptExecutionDisabled", value=True)

    def do(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def go(self, url):
        self.do("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'", "the page is loaded")

    def js(self, expression):
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText") or ""

    def until(self, expression, what, patience=30):
        end = time.monotonic() + patience
        while not self.js(expression):
            if time.monotonic() > end:
                raise AssertionError(f"waited {patience} s until {what}; the page says:\n{self.text('body')}")
            time.sleep(0.05)

    def click(self, selector):
        box = self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
                      " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.do("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def point(self, selector, part):
        """Moves the pointer to such a part of the width of an element."""
        box = self.js(f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                      f" return [r.x + r.width * {part}, r.y + r.height / 2]; }})()")
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def type(self, text):
        self.do("Input.insertText", text=text)

    def picture(self, path):
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def complaints(self):
        """What the browser's console holds against the page."""
        kinds = {"Log.entryAdded", "Runtime.exceptionThrown"}
        mine = [e for e in self.browser.events if e.get("sessionId") == self.session and e["method"] in kinds]
        return [json.dumps(e["params"]) for e in mine]
