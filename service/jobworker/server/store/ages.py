"""How long ago a file was written, where the clock that its time was taken from may have been set since, or before.
Pure: whoever asks says what time it is.

A file has the time of the clock of the day (inode(7), mtime). How that clock went in this life of the server is noted
here, against one that nobody sets: in courses, each from one jump to the next. So what was written in this life is
never taken for older than it is, whatever became of the clock. Of what was there before, the clock at the start of this
life tells how old it was then; what had a time still to come is as old as the time since it was first seen here.
"""

from __future__ import annotations

from dataclasses import dataclass

# By less than this the clock of the day is brought in line (adjtime(3)), and not set.
_SLEW_SECONDS = 1.0
_SLACK_SECONDS = 2 * _SLEW_SECONDS
_COURSES_MOST = 1000
_SEEN_MOST = 100_000


@dataclass(slots=True)
class _Course:
    """The clock of the day went so far ahead of the steady one; `first` and `last` are steady times at which it did."""

    ahead: float
    first: float
    last: float


class Ages:
    """`note` often, and right after each file was written; `of` from one thread alone."""

    def __init__(self, *, wall: float, steady: float) -> None:
        """The beginning of this life: Unix seconds, and seconds of a clock that nobody sets."""
        self._start_wall, self._start = wall, steady
        self._courses = [_Course(wall - steady, steady, steady)]
        self._first_seen: dict[str, float] = {}
        self._seen_again: dict[str, float] = {}

    def note(self, *, wall: float, steady: float) -> None:
        """How the clocks stand now."""
        course = self._courses[-1]
        if abs(wall - steady - course.ahead) <= _SLEW_SECONDS:
            course.last = max(course.last, steady)
            return
        self._courses.append(_Course(wall - steady, steady, steady))
        if len(self._courses) > _COURSES_MOST:
            del self._courses[1]

    @property
    def furthest(self) -> float:
        """How far ahead of the steady clock the clock of the day has been at most."""
        return max(course.ahead for course in self._courses)

    def begin(self) -> None:
        """A round begins, in which each file that is there still is asked for."""
        self._first_seen, self._seen_again = self._seen_again, {}

    def of(self, path: str, written: float, *, steady: float) -> float:
        """Seconds since a file was written, or fewer."""
        courses = tuple(self._courses)
        # A jump lies anywhere between the last time that the clocks were noted before it and the first one after it.
        begins = (self._start, *(course.last for course in courses[:-1]))
        ends = (*(course.first for course in courses[1:]), steady)
        at = [
            written - course.ahead
            for course, begin, end in zip(courses, begins, ends, strict=True)
            if begin - _SLACK_SECONDS <= written - course.ahead <= end + _SLACK_SECONDS
        ]
        if at:
            return max(0.0, steady - max(at) - _SLEW_SECONDS)
        if written < self._start_wall:
            return self._start_wall - written + steady - self._start
        seen = self._first_seen.get(path, steady)
        if len(self._seen_again) < _SEEN_MOST:
            self._seen_again[path] = seen
        return steady - seen
