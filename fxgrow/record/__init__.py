"""What a graph remembers: notes on its nodes, its origin, its edits and its growth history, and its digest."""
