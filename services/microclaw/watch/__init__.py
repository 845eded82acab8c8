"""supervisord's event listener: alarms for the owner, and new life for what supervisord gave up."""
