"""Does growing pay, where, and when: tasks, arms and seeds as data, records as JSON lines, a page made from them."""
