/*
 * kms/pin.h: where the token's PIN comes from (keystore.conf, pin-source), and keeping a prompted one for later logins.
 */
#ifndef KMS_PIN_H
#define KMS_PIN_H

#include "conf.h"
#include "kms/kms.h"

#define KMS_PIN_CAP 256 /* bytes of a PIN with its NUL */
#define KMS_PIN_FILE "pin"

struct kms_pin;

/* kms_pin_new(dir, conf, ret): conf is read, not kept. */
int kms_pin_new(const char *dir, const struct kms_conf *conf, struct kms_pin **ret, struct base_error *err);
void kms_pin_free(struct kms_pin *pin); /* NULL is fine; wipes */

/* kms_pin_ask(pin, prompt, again, err): source `prompt`: ask now and keep the (stretched) PIN; other sources: nothing. */
int kms_pin_ask(struct kms_pin *pin, const struct kms_prompt *prompt, bool again, struct base_error *err);

/* kms_pin_get: an hsm_pin_fn; ctx is the struct kms_pin. -EACCES exit 3: the source has nothing. Blocks on a file. */
int kms_pin_get(void *ctx, char *pin, size_t cap, struct base_error *err);

/* kms_pin_random(ret, cap): 128 random bits as 32 hexadecimal digits. */
int kms_pin_random(char *ret, size_t cap);
/* kms_pin_write(dir, text, err): DIR/pin, 0600, new, durable. */
int kms_pin_write(const char *dir, const char *text, struct base_error *err);

/* kms_pin_cost(): log2 of scrypt's N for a new passphrase: 17, or less where so much memory cannot be locked. */
int kms_pin_cost(void);

#endif
