"""Random traffic: an organisation that is quiet, busy and hectic in turns."""

import random
import threading
import time

STEP = 0.2


class Traffic:
    """Publishes in a thread of its own. The seed decides the rates, the machine when each step comes."""

    def __init__(self, org, seed, most):
        self.org, self.most = org, most
        self.failure, self._stopped, self._dice = None, False, random.Random(f"traffic {seed}")
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._publish, name="traffic", daemon=True)
        self._thread.start()

    def _publish(self):
        try:
            rate, until, owed = 0.0, 0.0, 0.0
            while not self._stopped:
                if time.monotonic() > until:
                    rate = self.most * self._dice.choice((0.0, 0.05, 0.1, 0.2, 0.4, 1.0))
                    until = time.monotonic() + self._dice.uniform(1.0, 8.0)
                owed += rate * STEP
                with self._gate:
                    if owed >= 1 and not self._stopped:
                        self.org.generate(int(owed))
                        owed -= int(owed)
                time.sleep(STEP)
        except Exception as error:  # noqa: BLE001 - whatever it was, the run has to end with it
            self.failure = error

    def pause(self):
        """Nothing is published by itself after this, until `resume`."""
        self._gate.acquire()

    def resume(self):
        self._gate.release()

    def stop(self):
        self._stopped = True
        self._thread.join(10)
