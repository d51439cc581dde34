"""What is asked of a representation: loss, decision, metrics, figures. One file per task."""

from weft.tasks.base import Task, create_task, guess_task, tasks

__all__ = ["Task", "create_task", "guess_task", "tasks"]
