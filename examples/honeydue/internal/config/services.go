package config

import (
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis reads `REDIS_URL`, or `REDIS_ADDR` with `REDIS_PASSWORD`.
func (r *Reader) Redis() *redis.Options {
	options := r.redisAddress()
	// A health check must end when its prober's patience does.
	options.ContextTimeoutEnabled = true
	return options
}

func (r *Reader) redisAddress() *redis.Options {
	password := r.Secret("REDIS_PASSWORD")
	if text := r.Secret("REDIS_URL"); text != "" {
		options, err := redis.ParseURL(text)
		if err != nil {
			r.problem("`REDIS_URL` is not a URL such as `redis://host:6379/0`")
			return &redis.Options{}
		}
		if options.Password == "" {
			options.Password = password
		}
		return options
	}
	address := r.String("REDIS_ADDR", "")
	if _, _, err := net.SplitHostPort(address); err != nil {
		r.problem("no Redis: set `REDIS_URL`, or `REDIS_ADDR` to `host:port`")
	}
	return &redis.Options{Addr: address, Password: password}
}

// Storage says where uploads go: a bucket where Bucket is not nil, and else
// the directory.
type Storage struct {
	Bucket    *Bucket
	Directory string
}

// Bucket is an S3 bucket and the key that may write to it.
type Bucket struct {
	Endpoint string // host, or host:port
	Secure   bool
	Region   string
	Name     string
	KeyID    string
	Key      string
}

// Backend names where uploads go, without a secret, for the log.
func (s Storage) Backend() string {
	if s.Bucket != nil {
		return fmt.Sprintf("bucket %s at %s", s.Bucket.Name, s.Bucket.Endpoint)
	}
	return "volume " + s.Directory
}

// Storage reads the four `B2_*` settings, which are all set or all unset, and
// `UPLOAD_DIR`. A bucket that is half configured never falls back to the
// volume: its uploads would be lost with the node.
func (r *Reader) Storage() Storage {
	settings := []struct{ name, value string }{
		{"B2_ENDPOINT", r.String("B2_ENDPOINT", "")},
		{"B2_KEY_ID", r.Secret("B2_KEY_ID")},
		{"B2_APP_KEY", r.Secret("B2_APP_KEY")},
		{"B2_BUCKET_NAME", r.String("B2_BUCKET_NAME", "")},
	}
	var missing []string
	for _, setting := range settings {
		if setting.value == "" {
			missing = append(missing, "`"+setting.name+"`")
		}
	}
	switch len(missing) {
	case len(settings):
		return Storage{Directory: r.String("UPLOAD_DIR", "/var/lib/honeydue/uploads")}
	case 0:
		bucket := &Bucket{KeyID: settings[1].value, Key: settings[2].value, Name: settings[3].value}
		r.endpoint(settings[0].value, bucket)
		return Storage{Bucket: bucket}
	default:
		r.problem("the storage bucket is half configured: %s not set; set all four or none", strings.Join(missing, ", "))
		return Storage{}
	}
}

func (r *Reader) endpoint(text string, bucket *Bucket) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" {
		r.problem("`B2_ENDPOINT` is not a host such as `s3.us-west-004.example`")
		return
	}
	bucket.Endpoint = parsed.Host
	bucket.Secure = parsed.Scheme == "https"
	if address := net.ParseIP(parsed.Hostname()); !bucket.Secure && (address == nil || !address.IsLoopback()) {
		r.problem("`B2_ENDPOINT` must be https: only a loopback address may do without")
	}
	bucket.Region = regionOf(parsed.Hostname())
}

// regionOf reads the region out of `s3.<region>.<domain>`; every other
// endpoint gets S3's default region.
func regionOf(host string) string {
	labels := strings.Split(host, ".")
	if len(labels) >= 4 && labels[0] == "s3" {
		return labels[1]
	}
	return "us-east-1"
}

// Mail is the server that digests are sent through.
type Mail struct {
	Host     string
	Port     int
	User     string
	Password string
	From     string
	To       string
}

// Mail reads `EMAIL_*`, or returns nil where no digest is to be mailed.
func (r *Reader) Mail() *Mail {
	host := r.String("EMAIL_HOST", "")
	if host == "" {
		return nil
	}
	settings := &Mail{
		Host:     host,
		Port:     r.Int("EMAIL_PORT", 587, 1, 65535),
		User:     r.String("EMAIL_HOST_USER", ""),
		Password: r.Secret("EMAIL_HOST_PASSWORD"),
		From:     r.String("EMAIL_FROM", ""),
		To:       r.String("DIGEST_EMAIL_TO", ""),
	}
	if (settings.User == "") != (settings.Password == "") {
		r.problem("`EMAIL_HOST_USER` and `EMAIL_HOST_PASSWORD` must be set together")
	}
	for _, entry := range [][2]string{{"EMAIL_FROM", settings.From}, {"DIGEST_EMAIL_TO", settings.To}} {
		if _, err := mail.ParseAddress(entry[1]); err != nil {
			r.problem("`%s` is `%s`, and must be an address as `EMAIL_HOST` is set", entry[0], entry[1])
		}
	}
	return settings
}

// PushKeys reads the credentials of the two push services, and returns the
// names of those that there are. Nothing is pushed yet: a key that a deployment
// lost is found at the start, and not by the first message.
func (r *Reader) PushKeys() []string {
	var found []string
	for _, name := range []string{"FCM_SERVER_KEY", "APNS_AUTH_KEY"} {
		if r.Secret(name) != "" {
			found = append(found, name)
		}
	}
	return found
}

// SigningKey reads `SECRET_KEY`, which signs the addresses of uploads.
func (r *Reader) SigningKey() []byte {
	key := r.Secret("SECRET_KEY")
	if len(key) < 32 {
		r.problem("`SECRET_KEY` has %d characters, and needs 32 or more", len(key))
	}
	return []byte(key)
}

// Port reads a TCP port.
func (r *Reader) Port(name string, fallback int) string {
	return strconv.Itoa(r.Int(name, fallback, 1, 65535))
}
