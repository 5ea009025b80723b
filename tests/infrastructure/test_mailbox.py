"""Mail without a mail server: files that a mail program opens, each once, and no more than fit."""

from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path

from application.mail import Posting
from infrastructure.mailbox import Mailbox
from tests.kit.builders import NOON
from tests.kit.mails import SENDER, a_mail


def test_a_mail_is_a_file_for_its_owners_eyes(tmp_path: Path) -> None:
    """Whole, readable by nobody else; posted again it is the same file."""
    folder = tmp_path / "data" / "mailbox"
    box = Mailbox(folder, SENDER)
    for _ in range(2):
        assert box.post(a_mail()).posting is Posting.ACCEPTED
    [path] = folder.iterdir()
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert (message["To"], message["Subject"]) == ("owner@example.com", "Time to rotate")
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_oldest_make_room(tmp_path: Path) -> None:
    """Beyond its bound the mailbox keeps the newest."""
    box = Mailbox(tmp_path, SENDER, messages_max=3)
    for number in (4, 1, 3, 2, 5):
        box.post(a_mail(number, at=NOON + timedelta(minutes=number)))
    assert [path.name.partition("-")[2] for path in sorted(tmp_path.iterdir())] == [
        f"notice.{number}.eml" for number in (3, 4, 5)
    ]


def test_a_folder_that_cannot_be_written_is_later(tmp_path: Path) -> None:
    """A file stands where the folder should be: nothing is lost, and nothing is raised."""
    (tmp_path / "mailbox").write_text("in the way")
    assert Mailbox(tmp_path / "mailbox", SENDER).post(a_mail()).posting is Posting.LATER
