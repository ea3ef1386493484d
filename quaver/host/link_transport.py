"""The host's end of the serial link: a `Transport` over a line that may lose and spoil bytes."""

from __future__ import annotations

from random import Random, SystemRandom
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.rtl.link.frames import FULL_FRAME_BYTES, MAX_WORDS, Frame, Frames

Words = NDArray[np.uint32]


class Line(Protocol):
    """Carries bytes both ways; it may lose or spoil some of them."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def read(self, timeout: float) -> bytes:
        """What has come; waits at most `timeout` seconds for a first byte, and returns none then."""

    @property
    def now(self) -> float:
        """The time in seconds since some fixed moment."""


def _after(position: int, before: int) -> int:
    """How far `position`, modulo 2**16, is after the unlimited position `before`."""
    return (position - before) & 0xFFFF


class LinkTransport:
    """Carries words to the accelerator and back, in order, each once, whatever the line does to frames.

    What was sent is kept until the device has it. When nothing moves for `retry` seconds, the device is asked
    what it has, and what it lacks is sent again; the same happens when one of its own frames was lost.

    Parameters
    ----------
    line
        Leads to the device.
    baud
        Bits that the line carries in a second: on a slow line, frames take longer to come.
    retry
        Seconds without progress before the device is asked, doubled at each further question. By default
        0.03, or the time of three frames if that is longer.
    silence
        Seconds without any answer after which a TimeoutError gives the device up. By default 3, or the time
        of thirty frames if that is longer.
    patience
        Seconds after which a device that answers, but takes and gives no word, is given up: more than its
        longest GEMM takes.
    random
        Source of session numbers.

    Attributes
    ----------
    polls, repeated
        How often the device was asked, and how many words were sent again.
    """

    def __init__(
        self,
        line: Line,
        *,
        baud: int = 3_000_000,
        retry: float | None = None,
        silence: float | None = None,
        patience: float = 60.0,
        random: Random | None = None,
    ):
        frame = 10 * FULL_FRAME_BYTES / baud
        self.line, self.patience = line, patience
        self.retry = max(0.03, 3 * frame) if retry is None else retry
        self.silence = max(3.0, 30 * frame) if silence is None else silence
        self._random = random or SystemRandom()
        self.polls = self.repeated = 0
        self._begin(0)

    def _begin(self, session: int) -> None:
        self.session = session
        self._frames = Frames()
        # Bytes of words from position `_acknowledged` on. Positions are unlimited here.
        self._outgoing = bytearray()
        self._acknowledged = self._sent = self._most_sent = self._limit = 0
        self._incoming = bytearray()
        self._expected = self._told = 0  # words that came, and of how many the device was told
        self._lost = False  # a frame of the device's did not come
        self._strangers = 0
        self._sent_at_poll = 0

    def reset(self) -> None:
        """Begin a new session: drop all words under way and reset the accelerator.

        Raises
        ------
        TimeoutError
            Nothing answers as it should.
        """
        self._begin(self._random.randrange(1, 1 << 16))
        begun, heard, framed, wait = self.line.now, 0, False, self.retry
        while self._limit == 0:
            if self.line.now - begun > self.silence:
                what = "nothing came; is the device powered, its bitstream loaded, the port the right one?"
                if framed:
                    what = "only frames without room came, as the host's are; does the line lead back here?"
                elif heard:
                    what = f"{heard} bytes came, but no frame of it; is the baud rate the device's?"
                raise TimeoutError(f"no session on {self.line} in {self.silence:g} s; {what}")
            self.line.write(Frame(self.session, 0, 0, reset=True).to_bytes())
            asked = self.line.now
            while self._limit == 0 and self.line.now - asked < wait:
                received = self.line.read(wait)
                heard += len(received)
                good, _ = self._take(received)
                framed |= good
                if good and not self._limit:  # positions say that the device was in this session already
                    self._begin(self._random.randrange(1, 1 << 16))
                    break
            wait = self._longer(wait)

    def send(self, words: Words) -> None:
        """Keep words for the command stream; they go out in `receive` only."""
        self._outgoing += np.ascontiguousarray(words, "<u4").tobytes()

    def receive(self, count: int) -> Words:
        """The next `count` words of the response stream.

        Raises
        ------
        TimeoutError
            The device does not answer any more, or answers and does nothing.
        ConnectionResetError
            The device was reset, or another program has begun a session with it.
        """
        heard = moved = asked = self.line.now
        wait = self.retry
        while len(self._incoming) < 4 * count:
            self._transmit()
            received = self.line.read(wait)
            good, progress = self._take(received)
            now = self.line.now
            if good:
                heard = now
            if progress:
                moved = asked = now
                wait = self.retry
            if self._strangers >= 3:
                raise ConnectionResetError(
                    f"the device on {self.line} is in another session than this one: it was reset, or "
                    f"another program uses it; begin anew"
                )
            if now - heard > self.silence:
                raise TimeoutError(
                    f"the device on {self.line} has not answered for {now - heard:.1f} s; "
                    f"{len(self._incoming) // 4} words of {count} had come"
                )
            if now - moved > self.patience:
                raise TimeoutError(
                    f"the device on {self.line} answers, but for {now - moved:.0f} s it has taken and given "
                    f"no word; {len(self._incoming) // 4} words of {count} had come"
                )
            if self._lost or now - asked >= wait:
                wait = self.retry if self._lost else self._longer(wait)
                self._poll()
                asked, self._lost = now, False
        words = np.frombuffer(bytes(self._incoming[: 4 * count]), "<u4")
        del self._incoming[: 4 * count]
        return words

    def _longer(self, wait: float) -> float:
        # A slow device must not drown in questions; a lost answer must not use up the time there is.
        return max(self.retry, min(2 * wait, self.silence / 10))

    def _poll(self) -> None:
        self.polls += 1
        self._sent_at_poll, self._told = self._sent, self._expected
        self.line.write(Frame(self.session, self._sent, self._expected, poll=True).to_bytes())

    def _transmit(self) -> None:
        """Send what there is and what the device has room for; acknowledge what came."""
        end = min(self._limit, self._acknowledged + len(self._outgoing) // 4)
        while self._sent < end:
            length = min(end - self._sent, MAX_WORDS)
            start = 4 * (self._sent - self._acknowledged)
            payload = bytes(self._outgoing[start : start + 4 * length])
            self.line.write(Frame(self.session, self._sent, self._expected, payload=payload).to_bytes())
            self.repeated += max(0, min(self._most_sent, self._sent + length) - self._sent)
            self._sent += length
            self._most_sent, self._told = max(self._most_sent, self._sent), self._expected
        if self._expected - self._told >= MAX_WORDS:  # or the device, which keeps two frames, would wait
            self.line.write(Frame(self.session, self._sent, self._expected).to_bytes())
            self._told = self._expected

    def _take(self, received: bytes) -> tuple[bool, bool]:
        """Whether there was a frame of this session in the bytes, and whether it brought anything new."""
        good = progress = False
        for frame in self._frames.take(received):
            if frame.session != self.session:
                self._strangers += frame.poll
                continue
            self._strangers = 0
            good = True
            progress |= self._take_frame(frame)
        return good, progress

    def _take_frame(self, frame: Frame) -> bool:
        before = self._acknowledged, self._limit, self._expected
        acknowledged = self._acknowledged + _after(frame.acknowledge, self._acknowledged)
        if acknowledged <= self._most_sent:  # otherwise it was overtaken by later ones
            del self._outgoing[: 4 * (acknowledged - self._acknowledged)]
            self._acknowledged = acknowledged
            self._limit = max(self._limit, acknowledged + _after(frame.limit, frame.acknowledge))
            self._sent = max(self._sent, acknowledged)
            if frame.poll and acknowledged < self._sent_at_poll:
                self._sent = acknowledged
        ahead = _after(frame.sequence, self._expected)
        if ahead == 0:
            self._incoming += frame.payload
            self._expected += frame.length
        elif ahead < 1 << 15:
            self._lost = True
        return before != (self._acknowledged, self._limit, self._expected)
