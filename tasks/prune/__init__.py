"""What nobody needs any more goes: from the store, and from this machine's disk."""
