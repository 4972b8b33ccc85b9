package collectcfg

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/metadata"
)

// CFN reads the metadata of a stack's resources from Heat's CloudFormation
// API.
type CFN struct {
	URL       string // with /v1/; empty: Hint says, without
	Hint      string // a file
	CAFile    string
	Stack     string
	Paths     []string // Resource.field[.key]: what to lay over each other
	KeyID     string
	SecretKey string
	Timeout   time.Duration
	Keys      []string // of deployments
	Original  bool

	web *web
}

// Collect delivers one document, "cfn", and one for each deployment in it.
func (c *CFN) Collect(ctx context.Context) ([]Document, error) {
	address, err := c.address()
	if err != nil {
		return nil, err
	}
	for _, s := range []struct{ name, value string }{
		{"access-key-id", c.KeyID}, {"secret-access-key", c.SecretKey}, {"path", strings.Join(c.Paths, "")},
		{"stack-name", c.Stack},
	} {
		if s.value == "" {
			return nil, unconfigured{fmt.Errorf("no %s is set", s.name)}
		}
	}
	if c.web == nil {
		if c.web, err = newWeb(c.Timeout, c.CAFile, c.Original); err != nil {
			return nil, temporary{err}
		}
	}
	var content any = &metadata.Object{}
	for _, path := range c.Paths {
		v, err := c.resource(ctx, address, path)
		if err == nil {
			content, err = shallow(content, v)
		}
		if _, ok := content.(*metadata.Object); err == nil && !ok {
			err = errors.New("no object")
		}
		if err != nil {
			if !IsTemporary(err) {
				err = temporary{fmt.Errorf("path %s: %w", path, err)}
			}
			return nil, err
		}
	}
	return explode("cfn", content.(*metadata.Object), c.Keys)
}

func (c *CFN) address() (string, error) {
	if c.URL != "" {
		return c.URL, nil
	}
	b, err := os.ReadFile(c.Hint)
	if err != nil {
		return "", unconfigured{errors.New("no metadata-url is set")}
	}
	return strings.TrimSpace(string(b)) + "/v1/", nil
}

// resource is what is at a path.
func (c *CFN) resource(ctx context.Context, address, path string) (any, error) {
	parts := strings.Split(path, ".")
	if len(parts) < 2 {
		return nil, errors.New("not in the form Resource.field[.key]")
	}
	req, err := c.web.request(ctx, http.MethodGet, address)
	if err != nil {
		return nil, err
	}
	query := c.query(req.URL, parts[0])
	if req.URL.RawQuery != "" {
		query = req.URL.RawQuery + "&" + query
	}
	req.URL.RawQuery = query
	req.Header.Set("Content-Type", "application/json")
	a, err := c.web.do(req, 0)
	if err != nil {
		return nil, err
	}
	field, err := stackField(a.body, parts[1])
	if err != nil {
		return nil, err
	}
	v, err := metadata.Parse(parts[1], []byte(field))
	for _, key := range parts[2:] {
		if err != nil {
			break
		}
		o, _ := v.(*metadata.Object)
		sub, ok := o.Get(key)
		if !ok {
			err = fmt.Errorf("no key %s", key)
		}
		v = sub
	}
	return v, err
}

// query asks for a resource, signed by version 2 of AWS's signatures: HMAC
// with SHA-256 of the method, host, path and sorted query. The order of the
// parameters is the original's.
func (c *CFN) query(u *url.URL, resource string) string {
	pairs := [][2]string{
		{"Action", "DescribeStackResource"}, {"StackName", c.Stack}, {"LogicalResourceId", resource},
		{"AWSAccessKeyId", c.KeyID}, {"SignatureVersion", "2"}, {"SignatureMethod", "HmacSHA256"},
	}
	encode := func(pairs [][2]string, escape func(string) string) string {
		var b strings.Builder
		for i, p := range pairs {
			if i > 0 {
				b.WriteByte('&')
			}
			b.WriteString(escape(p[0]) + "=" + escape(p[1]))
		}
		return b.String()
	}
	sorted := slices.SortedFunc(slices.Values(pairs), func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	host := u.Host
	if u.User != nil {
		host = u.User.String() + "@" + host
	}
	mac := hmac.New(sha256.New, []byte(c.SecretKey))
	fmt.Fprintf(mac, "GET\n%s\n%s\n%s", host, u.EscapedPath(),
		encode(sorted, func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }))
	signature := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return encode(append(pairs, [2]string{"Signature", signature}), url.QueryEscape)
}

// stackField takes a field out of the answer to DescribeStackResource.
func stackField(answer []byte, name string) (string, error) {
	var doc struct {
		Result *struct {
			Detail *struct {
				Fields []struct {
					XMLName xml.Name
					Text    string `xml:",chardata"`
				} `xml:",any"`
			} `xml:"StackResourceDetail"`
		} `xml:"DescribeStackResourceResult"`
	}
	if err := xml.NewDecoder(bytes.NewReader(answer)).Decode(&doc); err != nil {
		return "", fmt.Errorf("what the server sends is no XML: %w", err)
	}
	if doc.Result == nil || doc.Result.Detail == nil {
		return "", errors.New("what the server sends is no DescribeStackResourceResult")
	}
	for _, f := range doc.Result.Detail.Fields {
		if f.XMLName.Local == name {
			return f.Text, nil
		}
	}
	return "", fmt.Errorf("no field %s", name)
}
