// Package mail sends plain text through one SMTP server. It queues nothing
// and retries nothing.
package mail

import (
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"strconv"
	"strings"
	"time"

	"example.com/honeydue/internal/config"
)

// Sender returns a function that sends one message and waits for the server
// to take it. The password only goes over TLS, or to this machine.
func Sender(settings config.Mail) func(subject, body string) error {
	address := net.JoinHostPort(settings.Host, strconv.Itoa(settings.Port))
	var auth smtp.Auth
	if settings.User != "" {
		auth = smtp.PlainAuth("", settings.User, settings.Password, settings.Host)
	}
	return func(subject, body string) error {
		from, err := mail.ParseAddress(settings.From)
		if err != nil {
			return fmt.Errorf("sender `%s`: %w", settings.From, err)
		}
		to, err := mail.ParseAddress(settings.To)
		if err != nil {
			return fmt.Errorf("recipient `%s`: %w", settings.To, err)
		}
		message := compose(from, to, subject, body, time.Now())
		if err := smtp.SendMail(address, auth, from.Address, []string{to.Address}, message); err != nil {
			return fmt.Errorf("send through `%s`: %w", address, err)
		}
		return nil
	}
}

// compose writes a message of RFC 5322. Encoding the subject keeps a line
// break in it from becoming a header.
func compose(from, to *mail.Address, subject, body string, date time.Time) []byte {
	var text strings.Builder
	for _, header := range [][2]string{
		{"From", from.String()},
		{"To", to.String()},
		{"Subject", mime.QEncoding.Encode("utf-8", subject)},
		{"Date", date.Format(time.RFC1123Z)},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		text.WriteString(header[0] + ": " + header[1] + "\r\n")
	}
	text.WriteString("\r\n")
	encoder := quotedprintable.NewWriter(&text)
	// A strings.Builder never fails to write.
	_, _ = encoder.Write([]byte(body))
	_ = encoder.Close()
	text.WriteString("\r\n")
	return []byte(text.String())
}
