"""Where images come from: folders, object stores, lists and tar archives."""
