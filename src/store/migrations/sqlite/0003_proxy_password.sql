-- The password of the application parameter's own proxy.
ALTER TABLE application_parameters ADD COLUMN proxy_password_sealed BLOB;
