"""The journal: every action of an annotator is in a file beside the image before it is shown."""

from limnet.annotator.journal.journal import Journal, journal_path, read_journal
from limnet.annotator.journal.recording import Recording, replay

__all__ = ["Journal", "Recording", "journal_path", "read_journal", "replay"]
