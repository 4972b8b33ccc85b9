package applycfg

import (
	"strings"
	"testing"

	"goldsmith/internal/metadata"
)

// The value beside a secret's name is a secret.
func TestNamedSecrets(t *testing.T) {
	for _, c := range []struct{ metadata, want string }{
		{`{"inputs": [{"name": "admin_password", "value": "HEATSECRET"}, {"name": "user", "value": "bob"}]}`,
			`{"inputs": [{"name": "admin_password", "value": "****"}, {"name": "user", "value": "bob"}]}`},
		{`{"i": {"value": {"a": ["x1", 22222], "b": true}, "name": "api token"}}`,
			`{"i": {"value": {"a": ["****", "****"], "b": true}, "name": "api token"}}`},
		{`{"i": {"name": 7, "value": "shown"}, "name": "my_key", "val": "shown"}`,
			`{"i": {"name": 7, "value": "shown"}, "name": "my_key", "val": "shown"}`},
		{`{"Tags": [{"Key": "db_password", "Value": "x"}, {"Name": "os_token", "Value": 12}]}`,
			`{"Tags": [{"Key": "****", "Value": "****"}, {"Name": "os_token", "Value": "****"}]}`},
		{`{"Tags": [{"Name": "os_token", "Value": 12}, {"Name": "user", "Value": "bob"}]}`,
			`{"Tags": [{"Name": "os_token", "Value": "****"}, {"Name": "user", "Value": "bob"}]}`},
		{`{"i": {"key": "db_pass", "value": "hidden"}}`, `{"i": {"key": "****", "value": "****"}}`},
	} {
		if got := metadata.JSON(Templates{}.FindSecrets(doc(t, c.metadata)).masked()); got != c.want {
			t.Errorf("%s is shown as %s", c.metadata, got)
		}
	}
	for name, secret := range map[string]bool{"keystone_region": false, "keyboard": false, "kernel.keys.maxkeys": false,
		"private_ip": false, "passthrough": false, "key_name": false, "monkey": false, "api_key": true,
		"sshKey": true, "ssh-private-key.pem": true, "APIKey": true, "privateKeyFile": true, "db.passwd": true,
		"adminPassword": true, "passphrase": true, "client_secret": true, "tokens": true,
		"OS_PASSWORD": true, "key": true, "aws credentials": true,
		"password2": true, "secretsFile": true, "DBPass": true, "adminpassword": true, "apikey": true,
		"dbpass": true, "adminpass": true, "bypass": false, "ProxyBypass": false, "encompass": false, "passive": false,
		"sshkey": true, "rsakey": true, "myKEY": true, "ssh-keys": true,
		"masterkey": true, "key_pem": true, "ssh_key_data": true, "rsa_key_private": true,
		"KEY_A": true, "KEY_2": true, "KEYBOARD_A": false, "key_size": false, "hotkey": false, "monkey_access": false,
		"secretkey": true, "privatekey": true, "accesskey": true, "AWSAccessKeyId": true, "api_key_2": true,
		"tokenizer": false, "token_type": true, "secretary": false, "myTOKEN": true, "MYTOKEN": true, "TOKENSize": true,
	} {
		shown := metadata.JSON(Templates{}.FindSecrets(doc(t, `{"name": "`+name+`", "value": "xyzzy"}`)).masked())
		if strings.Contains(shown, "xyzzy") == secret {
			t.Errorf("%s is shown as %s", name, shown)
		}
	}
	// An input of another name is another key: what was public before is not.
	one := Templates{}.FindSecrets(doc(t, `{"l": [{"name": "a_token", "value": "x"}]}`)).keys()
	two := Templates{}.FindSecrets(doc(t,
		`{"l": [{"name": "a_token", "value": "x"}, {"name": "b_token", "value": "y"}]}`))
	if one.has(two.keys()) {
		t.Error("a second input is no other key")
	}
}
