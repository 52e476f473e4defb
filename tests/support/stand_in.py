"""A program in lema's place, for tests of the scripts that call it: what it answers is the case's to say."""
import pathlib
import sys
import tempfile
import unittest


class StandInCase(unittest.TestCase):
    STAND_IN = ""  # Python, with {python} for the interpreter

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.lema = self.folder / "lema"
        self.lema.write_text(self.STAND_IN.format(python=sys.executable))
        self.lema.chmod(0o755)
