"""What counts as a claim that no tool backs: the table, the traps, and that nothing makes it slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.claims import BACKED_BY, DONE_CHARS_MAX, Deed, doubt, note, unbacked

CLAIMS = [
    (Deed.SCHEDULED, "I've set a reminder for 6 pm."),
    (Deed.SCHEDULED, "Sure! I have set up a daily reminder to water the plants."),
    (Deed.SCHEDULED, "I’ve gone ahead and created the reminder for tomorrow at 9."),
    (Deed.SCHEDULED, "I've scheduled your weekly reminder. Anything else?"),
    (Deed.SCHEDULED, "I set an alarm for 7:00."),
    (Deed.SCHEDULED, "Your reminder is set for 18:00."),
    (Deed.SCHEDULED, "The reminder for the dentist has been scheduled."),
    (Deed.SCHEDULED, "Reminder set for 6 pm ✅"),
    (Deed.SCHEDULED, "- **Reminder set** for 6 pm"),
    (Deed.SCHEDULED, "I'll remind you tomorrow at 9."),
    (Deed.SCHEDULED, "Great, I will also ping you in 20 minutes."),
    (Deed.SCHEDULED, "I'll remind you to call mum on Sunday."),
    (Deed.CANCELLED, "I've cancelled the reminder."),
    (Deed.CANCELLED, "I have deleted your 9 am task."),
    (Deed.CANCELLED, "Your alarm has been canceled."),
    (Deed.CANCELLED, "Reminder deleted."),
    (Deed.CANCELLED, "I've paused both reminders for the holidays."),
    (Deed.SENT, "I've sent the email to Bob."),
    (Deed.SENT, "I've just sent Ann a message."),
    (Deed.SENT, "I have emailed the landlord."),
    (Deed.SENT, "I've notified the family group."),
    (Deed.SENT, "I sent your message to the club."),
    (Deed.SENT, "I've forwarded it to Maria."),
    (Deed.SENT, "I've sent them the photo."),
    (Deed.SENT, "Message sent to Bob."),
    (Deed.SENT, "Your email to Bob has been sent."),
    (Deed.SENT, "I've sent a short message."),
    (Deed.WRITTEN, "I've saved the recipe to recipes.md."),
    (Deed.WRITTEN, "I've saved it in `notes/2026-05.md`, as you wanted."),
    (Deed.WRITTEN, "I have updated the file."),
    (Deed.WRITTEN, "I've created shopping_list.txt with all twelve items."),
    (Deed.WRITTEN, "I've added that to my memory."),
    (Deed.WRITTEN, "I've put the number into your notes."),
    (Deed.WRITTEN, "Saved to todo.md."),
    (Deed.WRITTEN, "I wrote the summary to report.pdf."),
    (Deed.DONE, "Done."),
    (Deed.DONE, "Done! Anything else?"),
    (Deed.DONE, "All done."),
    (Deed.DONE, "Okay, done."),
    (Deed.DONE, "It's done."),
]

TRAPS = [
    # Offers, plans, conditions, questions.
    "I can set a reminder for 6 pm if you like.",
    "Shall I send the email to Bob?",
    "Have I sent the email to Bob? I don't know.",
    "Did you want me to save it to notes.md?",
    "I could save this to notes.md.",
    "I'll send the email to Bob once you confirm.",
    "If I've sent the mail to Bob, the tool's answer says so.",
    "When I've set the reminder I'll tell you.",
    "I will remind you if you tell me when.",
    "I'll remind you that this was your own idea.",
    "I'll remind you whenever you ask.",
    "Would you like a reminder set for 6?",
    "Let me know and I'll set a reminder.",
    "You can say: remind me tomorrow at 9.",
    # Negations and honest failures.
    "I haven't sent the email to Bob.",
    "I have not set a reminder.",
    "I've sent nothing to Bob.",
    "I never sent the message to Ann.",
    "I couldn't save it to notes.md.",
    "I've tried to send the message to Ann, but it failed.",
    "Unfortunately I have cancelled no reminder.",
    "No reminder has been set.",
    "Your reminder is not set.",
    # About earlier.
    "I've already set a reminder for that.",
    "I sent the email to Bob yesterday.",
    "As I said earlier, I've sent the message to Ann.",
    "I set the reminder last week.",
    "Two days ago I saved it to notes.md.",
    # To whom the answer itself goes.
    "I've sent you the summary above.",
    "I've sent you a message with everything below.",
    "I've written a poem for you:\nRoses are red.",
    "I've created a list of ideas:\n1. Swim\n2. Read",
    "I've updated the list:\n- milk\n- eggs",
    "I've added eggs to the list below.",
    "I've written a note for the neighbours, see below.",
    "I've created a file structure proposal: src, tests, docs.",
    # Other people's words, drafts, quotations, code.
    'Ann wrote: "I\'ve sent the email to Bob."',
    "She says I've sent the email to Bob.",
    "Bob thinks I've cancelled the reminder.",
    "> I've sent the email to Bob.",
    "The sentence “I've set a reminder” is in the present perfect.",
    "Here's a draft:\nHi Bob,\nI've sent the contract to Maria.\nBest, Ann",
    "You could write: I've emailed the landlord.",
    "How about this?\n\nDear all, I have sent the minutes to the board.",
    "Here is your message:\nI've saved the photos to album.zip and holiday.pdf.",
    "```\nI've saved it to notes.md.\n```",
    "<internal>I've set a reminder for 6.</internal>It is 5 pm.",
    "An example: I've saved it to notes.md.",
    "The translation: I have sent the letter to the mayor.",
    # Done, but not a claim to have done something.
    "Are you done? Take your time.",
    "I'm done explaining; ask away.",
    "Done right, a soufflé rises.",
    "Well done!",
    "Once it's done, let it rest for ten minutes.",
    "Done. " + "The history of the word begins in Old English. " * 6,
    # What others did, and stories.
    "The email was sent by the bank at 5.",
    "The message has been sent by Bob.",
    "Once there was a king. He sat still. " * 4 + "I have sent the letter to the queen. " + "It rained. " * 6,
    # Ordinary talk.
    "Your reminder for 6 pm could be moved.",
    "The email arrives tomorrow.",
    "A reminder: the shop closes at six.",
    "Files are saved to disk by the operating system.",
    "The message was friendly.",
    "I remember that you like tea.",
    "I have a message for Bob.",
    "I have three reminders in mind.",
    "",
]


@pytest.mark.parametrize(("deed", "text"), CLAIMS)
def test_pain38_a_plain_claim_that_no_tool_backs_is_seen(deed: Deed, text: str) -> None:
    claim = unbacked(text, ())
    assert claim is not None and claim.deed is deed
    assert claim.words in doubt(claim) and claim.words in note(claim)


@pytest.mark.parametrize("text", TRAPS)
def test_pain38_ordinary_talk_is_never_taken_for_a_claim(text: str) -> None:
    assert unbacked(text, ()) is None


@pytest.mark.parametrize(("deed", "text"), CLAIMS)
def test_pain38_what_a_tool_of_the_turn_backs_is_believed(deed: Deed, text: str) -> None:
    for tool in BACKED_BY.get(deed, {"web_fetch"}):
        assert unbacked(text, {tool}) is None
    for tool in ("bash", "a_tool_of_some_server"):
        assert unbacked(text, {tool}) is None


@pytest.mark.parametrize(("text", "tool"), [
    ("I've set a reminder for 6 pm.", "send_message"), ("I've sent the email to Bob.", "web_fetch"),
    ("I've saved it to notes.md.", "schedule_task"), ("I've cancelled the reminder.", "send_file"),
])
def test_pain38_another_tool_backs_nothing(text: str, tool: str) -> None:
    assert unbacked(text, {tool}) is not None


@pytest.mark.parametrize("text", [
    "I sent the email to Bob.", "Your reminder is set for 18:00.", "I'll remind you tomorrow at 9.",
    "I set an alarm for 7:00.",
])
def test_pain38_what_may_speak_of_an_earlier_turn_is_believed_where_that_turn_did_it(text: str) -> None:
    did = {"send_message", "schedule_task"}
    assert unbacked(text, (), earlier=()) is not None
    assert unbacked(text, (), earlier=did) is None
    assert unbacked(text, (), earlier={"bash"}) is None
    assert unbacked(text, (), earlier=None) is None, "a summary stands for what was before: nobody knows"


@pytest.mark.parametrize("text", ["I've just set a reminder for 6.", "Done.", "Reminder set for 6."])
def test_pain38_what_says_now_is_held_against_this_turn_alone(text: str) -> None:
    assert unbacked(text, (), earlier={"schedule_task", "bash"}) is not None
    assert unbacked(text, (), earlier=None) is not None


@given(st.text(max_size=300), st.sampled_from([text for _, text in CLAIMS]))
def test_nothing_that_a_model_writes_breaks_it(noise: str, text: str) -> None:
    unbacked(noise, ())
    unbacked(f"{noise} {text} {noise}", ())


@pytest.mark.parametrize("text", [
    "I've set " + "a " * 20_000, "I have sent " * 8_000, "the " * 20_000 + "reminder", '"' * 20_000, "I've" * 20_000,
    "I'll remind you " + "at x " * 10_000, "_*`" * 20_000, "a." * 20_000 + "md", "Done" + "." * DONE_CHARS_MAX * 100,
    "your message " * 5_000,
])
def test_a_long_answer_is_looked_at_in_no_time(text: str) -> None:
    began = time.process_time()
    unbacked(text, ())
    assert time.process_time() - began < 2
