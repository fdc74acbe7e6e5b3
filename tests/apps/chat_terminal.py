"""Talks with `rwkv chat` in a pseudo-terminal: prompts, settings, retry, more, Ctrl-C, reset, Ctrl-D.

usage: chat_terminal.py RWKV MODEL
"""
import os
import pty
import select
import signal
import sys
import time


class Terminal:
    def __init__(self, command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)
        self.seen = ""

    def read_until(self, text, seconds=60):
        """What was shown up to and with `text`."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], max(left, 0))[0]:
                raise SystemExit(f"no {text!r} within {seconds} s, but: {self.seen!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                raise SystemExit(f"the terminal closed before {text!r}: {self.seen!r}")
            self.seen += data.decode("utf-8", errors="replace")
        cut = self.seen.index(text) + len(text)
        shown, self.seen = self.seen[:cut], self.seen[cut:]
        return shown

    def type(self, text):
        os.write(self.fd, text.encode())

    def ask(self, line):
        """Types a line; returns what stands between its echo and the next prompt."""
        self.type(line + "\n")
        self.read_until(line)
        return self.read_until("User: ")[: -len("User: ")].strip("\r\n")

    def exit_code(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:  # keeps the terminal from filling up
                if select.select([self.fd], [], [], 0.05)[0]:
                    os.read(self.fd, 65536)
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise SystemExit("the chat did not end")


def main():
    rwkv, model = sys.argv[1:]
    chat = Terminal([rwkv, "chat", "--model", model, "--tokens", "40"])
    chat.read_until("User: ")
    first = chat.ask("Hello.")
    assert first.startswith("Bot:") and len(first) > 5, first
    again = chat.ask("/retry")
    assert again.startswith("Bot:") and again != first, (again, first)
    assert len(chat.ask("/more")) > 0
    assert "/retry" in chat.ask("/help")
    chat.ask("/set temperature 0")
    settings = chat.ask("/set")
    assert any(line.split()[:2] == ["temperature", "0"] for line in settings.splitlines()), settings
    assert chat.ask("/retry") == chat.ask("/retry"), "greedy replies differ"
    assert "out of range" in chat.ask("/set temperature -3")
    assert chat.ask("/reset") == ""
    assert "no reply yet" in chat.ask("/retry")
    assert len(chat.ask("/qa What is rain?")) > 0

    # Ctrl-C stops a reply that would take for ever, and not the program.
    chat.ask("/set tokens 100000000")
    chat.ask("/set presence_penalty -5")
    chat.type("Tell me a story.\n")
    chat.read_until("Bot:")
    time.sleep(0.5)
    chat.type("\x03")
    assert "(stopped)" in chat.read_until("User: "), "Ctrl-C did not stop the reply"
    chat.type("\x03")  # at the prompt it says how to leave
    assert "/quit" in chat.read_until("User: ")
    chat.ask("/set tokens 10")
    assert chat.ask("Still there?").startswith("Bot:")
    chat.type("\x04")  # Ctrl-D
    code = chat.exit_code()
    assert code == 2, f"exit code {code}; there was a mistake in the lines above"

    chat = Terminal([rwkv, "chat", "--model", model])
    chat.read_until("User: ")
    chat.type("/quit\n")
    assert chat.exit_code() == 0
    print("the terminal: all as expected")


main()
