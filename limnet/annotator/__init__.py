"""What a person works with: objects, the journal of every action, export, the widget."""
