"""How the mailbox behaves: well, unless a test or an experiment tells it otherwise."""

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from system_under_test.services.mailbox.session import Reply, reply

DELAY_MOST_S: Final = 600.0
Stage = Literal["connection", "MAIL", "RCPT", "DATA", "content"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)


class Behaviour(BaseModel):
    """What goes wrong from now on; what is not named goes well."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # A new connection or a command that is refused, and by which reply.
    refuse: Stage | None = None
    code: Annotated[int, Field(strict=True, ge=400, le=599)] = 451
    # Before each reply.
    delay_s: Annotated[float, Field(ge=0, le=DELAY_MOST_S)] = 0.0
    # Takes the mail, and closes the connection instead of saying so.
    drop_after_data: Annotated[bool, Field(strict=True)] = False
    # Says twice that the mail was taken.
    answer_twice: Annotated[bool, Field(strict=True)] = False
    # The two above happen to each n-th mail.
    every: Annotated[int, Field(strict=True, ge=1)] = 1

    def refusal(self, stage: str) -> Reply | None:
        """What is answered at `stage` instead of doing it."""
        if stage != self.refuse:
            return None
        return reply(self.code, f"{self.code // 100}.0.0 told to refuse {stage}")

    def concerns(self, number: int) -> bool:
        """Whether the n-th mail is one of those that are dropped or answered twice."""
        return number % self.every == 0


class PushBehaviour(BaseModel):
    """What goes wrong with messages of web push from now on; what is not named goes well."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # The status that each message is refused with, and what Retry-After says.
    refuse: Annotated[int, Field(strict=True, ge=400, le=599)] | None = None
    retry_after_s: Annotated[int, Field(strict=True, ge=0, le=86_400)] | None = None
    # The status with which a message is taken.
    status: Literal[201, 202] = 201
    # Before the answer.
    delay_s: Annotated[float, Field(ge=0, le=DELAY_MOST_S)] = 0.0
    # Takes the message, and closes the connection instead of saying so.
    drop_after_taking: Annotated[bool, Field(strict=True)] = False
    # Says twice that the message was taken.
    answer_twice: Annotated[bool, Field(strict=True)] = False
    # The two above happen to each n-th message.
    every: Annotated[int, Field(strict=True, ge=1)] = 1

    def concerns(self, number: int) -> bool:
        """Whether the n-th message is one of those that are dropped or answered twice."""
        return number % self.every == 0
