"""After a restart: observe the world, decide (pure), then keep, mark or tear down."""
