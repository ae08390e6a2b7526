"""User-side media: a text, an image or an audio of each user."""

from __future__ import annotations

from mmtfrs.data.media_table import MediaTable


class Users(MediaTable):
    """Users: `user_id` (unique) and any of `text`, `image`, `audio`; other columns are kept.

    Example:
        >>> Users.from_dict({"user_id": ["u", "v"], "text": ["likes shoes", ""]}).count("text")
        1
    """

    id_column = "user_id"
    section = "users"
